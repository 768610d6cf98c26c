#!lua flags=allow-oom
-- uses events running answers streams steps runs ends leases claims
-- Held tasks begin, running ones are told of, results come in, entries leave the streams, runs advance; then the next
-- claim, in the same call.
-- KEYS: fixed; then per task to tell of: task, agent events; per step: steps, agent events, run events; then per task
--   that ends: task, agent events; per step: run, steps, results, definition, agent events, run events
-- ARGV: uid, incarnation, sequence number, slots (-1: don't claim), how many of them begin at once, lease ms, may take
--   over?, highest fence that the worker was given, how many begin, how many to tell of, how many end; per item that begins,
--   and that is to be told of: id, fence;
--   per item that ends: id, fence, outcome (completed | failed | dead | retry | cancelled | interrupted), ttl ms (retry: in how long), what all
--   attempts spent ('': nothing),
--   result, message, detail for the dead letter
-- -> {'gone'} | {'fenced'} | {'ok', {per item that ends: applied | repeated | stale}, what `claim` says, or {}}
local bar = barred(ARGV[1], ARGV[2], ARGV[3] == '1')
if bar then return { bar } end
local inc, begins, tells, n = ARGV[2], tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local at, key = 12, FIXED + 1

local function held(from, size, many)
  if many == 0 then return {} end
  local names = {}
  for i = 1, many do names[i] = ARGV[from + (i - 1) * size] end
  return redis.call('HMGET', RUNNING, unpack(names))
end

-- What a dead letter says beside its reason: of a task also what it was to do, so that it can be replayed when its record
-- is gone. (A step is replayed within its run, or not at all.)
local function letter(h, detail, task_key, run_id, spent)
  local says = { 'class', h.class, 'agent', h.agent, 'attempt', h.attempt, 'worker', h.inc, 'entry', h.entry, 'error', detail or '' }
  if spent and spent ~= '' then says[#says + 1], says[#says + 2] = 'spent', spent end
  if run_id then
    says[#says + 1], says[#says + 2] = 'run', run_id
  elseif task_key then
    local record, size, carried = redis.call('HGETALL', task_key), 0, {}
    for i = 1, #record, 2 do
      local name = record[i]
      if name == 'payload' or name == 'inputs' or name == 'work' or string.find(name, '^input:') then
        carried[#carried + 1], carried[#carried + 2] = name, record[i + 1]
        size = size + #record[i + 1]
      end
    end
    if size <= LETTER_MOST and #carried <= 100 then
      for _, value in ipairs(carried) do says[#says + 1] = value end
    end
  end
  return says
end

local packed, changed = held(at, 2, begins), {}
for i = 1, begins do
  local id, begun, agent = ARGV[at], packed_as_begun(packed[i], inc, ARGV[at + 1])
  at = at + 2
  if begun then
    changed[#changed + 1], changed[#changed + 2] = id, begun
    if agent then count(agent, 1) end
  end
end
if #changed > 0 then redis.call('HSET', RUNNING, unpack(changed)) end

packed = held(at, 2, tells)
for i = 1, tells do
  local id, fence = ARGV[at], ARGV[at + 1]
  at = at + 2
  local run_id, name = string.match(id, '^([^/]+)/(.*)$')
  local record, feed = KEYS[key], KEYS[key + 1]
  local run_events = run_id and KEYS[key + 2] or nil
  key = key + (run_id and 3 or 2)
  local h = holder_of(packed[i])
  if holds(h, inc, fence) and assigned(id, h, run_id, feed, run_events) then
    hold(id, h)
    if run_id then
      local step = read_step(record, name)
      if step and step.finished == '0' and step.state ~= 'cancelling' then
        step.state, step.attempt, step.started, step.fence = 'running', h.attempt, h.started, fence
        write_step(record, name, step)
      end
    else
      local state = redis.call('HGET', record, 'state')
      if state == 'waiting' or state == 'delayed' then
        redis.call('HSET', record, 'state', 'running', 'attempt', h.attempt, 'started', h.started)
      end
    end
  end
end

packed = held(at, 8, n)
local outcomes, acked, gone, ended, granted = {}, {}, {}, {}, {}
for i = 1, n do
  local id, fence, outcome, ttl, spent, result, message, detail = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3],
    ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], ARGV[at + 7]
  at = at + 8
  local run_id, name = string.match(id, '^([^/]+)/(.*)$')
  local k, step, last, over      -- the fence of its last transition, and whether that was its end
  if run_id then
    k = { run = KEYS[key], steps = KEYS[key + 1], results = KEYS[key + 2], def = KEYS[key + 3],
      agent_events = KEYS[key + 4], run_events = KEYS[key + 5] }
    key = key + 6
    step = read_step(k.steps, name)
    over = step and step.finished ~= '0'
    last = (over or step and (step.state == 'delayed' or step.state == 'interrupted')) and step.fence
  else
    k = { task = KEYS[key], agent_events = KEYS[key + 1] }
    key = key + 2
  end
  local task = not run_id and redis.call('HMGET', k.task, 'state', 'finished', 'reply')
  if task then over = task[2] end
  local h = holder_of(packed[i])
  local mine = holds(h, inc, fence) and not ended[id]
  if task and (over or not mine) then last = redis.call('HGET', k.task, 'fence') end
  if not mine then
    outcomes[i] = last == fence and 'repeated' or 'stale'
  else
    ended[id] = true
    gone[#gone + 1] = id
    local entries = acked[h.class] or {}
    acked[h.class], entries[#entries + 1] = entries, h.entry
    local wish, keep, why = wish_of(id)
    if wish then granted[#granted + 1] = id end
    if over then      -- a stray entry of what has ended
      if h.known ~= '0' then count(h.agent, -1, k.agent_events) end
      outcomes[i] = last == fence and 'repeated' or 'stale'
    else
      assigned(id, h, run_id, k.agent_events, k.run_events, true)
      count(h.agent, -1, k.agent_events)
      local is_there = step or (task and task[1])
      local made = h.attempt      -- attempts that count
      if outcome == 'interrupted' then made = int(tonumber(made) - 1) end
      -- What ends by itself has ended. What would go on stops, if somebody asked for that.
      if wish and (outcome == 'retry' or outcome == 'interrupted') then
        outcome, ttl = wish == 'cancel' and 'cancelled' or 'interrupted', keep
      end
      if outcome == 'cancelled' then result, message = cancelled_result(id, h.agent, h.attempt, why or '', spent) end
      if not is_there and outcome ~= 'dead' then bury('it has no record', id, letter(h)) end
      if not is_there and not run_id then redis.call('ZADD', IDS, 'XX', now_ms, id) end     -- nothing unfinished is left of it
      if outcome == 'retry' then
        if step then
          step.state, step.attempt, step.fence, step.entry, step.spent = 'delayed', h.attempt, fence, '', spent
          write_step(k.steps, name, step)
        elseif is_there then
          redis.call('HSET', k.task, 'state', 'delayed', 'fence', fence, 'attempt', h.attempt, 'spent', spent)
        end
        if is_there and delay(id, h.class, h.agent, int(tonumber(h.attempt) + 1), now_ms + tonumber(ttl)) then ring() end
        event('mission_event', about(h.agent, id, run_id, message), k.agent_events, k.run_events)
      elseif outcome == 'interrupted' then
        if is_there then set_aside(k, id, run_id, name, step, h.agent, made, fence, why or message, 0, spent) end
      else
        if outcome == 'dead' then bury(message, id, letter(h, detail, task and task[1] and k.task, run_id, spent)) end
        conclude(k, id, run_id, name, step, is_there, task and task[3], h.agent, h.attempt, fence, h.started, outcome, result,
          ttl, spent, message)
      end
      outcomes[i] = 'applied'
    end
  end
end
-- Only now: had anything above failed, all would still be held, and could be sent again one by one.
for class, entries in pairs(acked) do
  redis.call('XACK', STREAM[class], GROUP, unpack(entries))
  redis.call('XDEL', STREAM[class], unpack(entries))
end
if #gone > 0 then redis.call('HDEL', RUNNING, unpack(gone)) end
if #granted > 0 then redis.call('HDEL', WISHES, unpack(granted)) end
index_ended()
local slots = tonumber(ARGV[4])
if slots <= 0 and enqueued and queued() > redis.call('HLEN', RUNNING) then ring() end
local claimed = slots >= 0 and claim(inc, ARGV[3], slots, tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1',
  tonumber(ARGV[8])) or {}
settle()
send_answers()
return { 'ok', outcomes, claimed }
