#!lua flags=allow-oom
-- uses events holders answers outbox streams steps runs ends leases letters limits gate claims items approvals members
-- Held tasks begin, the feeds say of running ones that they have begun, results come in, entries leave the streams,
-- and runs advance; then the next claim, in the same call.
-- KEYS fixed, then for each item to tell of those of an item, and for each item that ends those of one that may end
--   (lib_items.lua), and if it has approved of an agent's work that agent's agent_events; then agent_events of each
--   agent with roles; of the delivery queue then the crew's feed
-- ARGV
--   1 uid
--   2 inc
--   3 number              of the claim; this and what follows up to `highest` is read by `claim` (lib_claims.lua)
--   4 slots               -1: don't claim
--   5 begin
--   6 lease_ms
--   7 take_over
--   8 highest
--   9 begins              items that begin, each with id, fence
--   10 tells              items to tell of, each with id, fence
--   11 ends               items that end, each with
--     id
--     fence
--     outcome             completed | failed | dead | retry | later (this attempt doesn't count)
--                         | put_off, exhausted (later and dead, by an attempt that spent nothing: if nothing of the
--                         task is done, another agent of its role may get it instead) | cancelled
--                         | interrupted | skipped (a step whose condition does not hold)
--                         | approval (it waits for somebody's, and the attempt doesn't count)
--                         | members (a step waits for others that work for it; the attempt doesn't count)
--     ttl                 for how long the record is kept, in ms; of retry and later: after how long it is tried
--                         again; below 0: at which time, negated; of approval: how long it waits at most
--     spent               by all attempts; '': nothing
--     result
--     message
--     detail              for the dead letter; of approval: what it is for, each perhaps with FS and its details,
--                         joined by LS; of members: the other steps, joined by LS; of completed: the agent
--                         of whose work this step has approved
--   ...                   agents with roles, as far as the caller knows them (`know_agents` in lib_limits.lua)
-- Answers
--   {'gone'}
--   {'fenced'}
--   {'unknown'}
--   {'ok', outcomes, claimed, runs}    for each item that ends applied | returned (to its role) | stopped (as somebody
--                                      wants, what was put off) | repeated | stale; what `claim` says, or {}; of each
--                                      run that ended its state, and its time since submission in ms
local uid, inc, number, slots = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local begins, tells, ends, crew_feed = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), KEYS[#KEYS]
local bar = barred(uid, inc, number == '1')
if bar then return { bar } end
local at = 12
local callers_at = at + 2 * begins + 2 * tells + 8 * ends
know_agents(callers_at, #KEYS - #ARGV + callers_at)

-- Packed holders of the next `n` items, which have `size` arguments each.
local function next_holders(n, size)
  if n == 0 then return {} end
  local ids = {}
  for i = 1, n do ids[i] = ARGV[at + (i - 1) * size] end
  return redis.call('HMGET', HOLDERS, unpack(ids))
end

-- 1. Held tasks begin.
local packed, changed = next_holders(begins, 2), {}
for i = 1, begins do
  local id, fence = ARGV[at], ARGV[at + 1]
  at = at + 2
  local begun, agent = pack_as_begun(packed[i], inc, fence)
  if begun then
    changed[#changed + 1], changed[#changed + 2] = id, begun
    if agent then count(agent, 1) end
  end
end
if #changed > 0 then redis.call('HSET', HOLDERS, unpack(changed)) end

-- 2. The feeds say of running ones that they have begun.
packed = next_holders(tells, 2)
for i = 1, tells do
  local id, fence = ARGV[at], ARGV[at + 1]
  at = at + 2
  local item, h = next_item(id), unpack_holder(packed[i])
  if holds(h, inc, fence) and assigned(item, h) then
    hold(id, h)
    if item.run_id then
      local step = read_step(item.steps, item.name)
      if step and step.finished == '0' and step.state ~= 'cancelling' then
        step.state, step.attempt, step.started, step.fence = 'running', h.attempt, h.started, fence
        write_step(item.steps, item.name, step)
      end
    else
      local task = redis.call('HMGET', item.task, 'state', 'agent')
      local state, known = task[1], task[2]
      if known ~= h.agent then      -- of a role
        local of = redis.call('HMGET', item.task, 'finished', 'role')
        if not of[1] then name_agent(item, h.agent, known, of[2]) end
      end
      if state == 'waiting' or state == 'delayed' or state == 'approval' then
        redis.call('HSET', item.task, 'state', 'running', 'attempt', h.attempt, 'started', h.started)
      end
    end
  end
end

-- 3. Results come in, and runs advance.
local LACKED_MS = 30000           -- a task that this worker can't begin waits so long for another worker
local TRIED_MOST = 8192           -- bytes of what is kept of failed attempts before the oldest goes
local acked = {}                  -- class -> entries that leave the stream
local gone, granted = {}, {}      -- ids that nobody holds any more, and those whose wish is granted
local left = {}                   -- holders that `gone` leaves, where agents have limits
local ended_ids = {}

-- The record of a task, or of a step's run, tells of its last failed attempts, for whoever asks why it isn't done yet
-- (packed.Tried in Python). Deliveries have a log of their own (circuit.lua).
local function keep_failure(item, h, message)
  if string.sub(h.agent, 1, 3) == 'to:' then return end
  local key, field = item.run or item.task, item.run_id and 'tried:' .. item.name or 'tried'
  local told = string.gsub(message, '%c', ' ')
  local known = redis.call('HGET', key, field)
  while known and #known > TRIED_MOST do known = string.match(known, '^[^\30]*\30(.*)$') end
  redis.call('HSET', key, field, (known and known .. LS or '') .. h.attempt .. FS .. h.started .. FS .. now .. FS
    .. h.inc .. FS .. told)
end

-- When a task that its agent may not begin now goes back to its role, in ms: nothing of it is done (whatever attempts
-- that failed have spent), and another agent of the role may begin it earlier. `lacked`: also for an agent that this
-- worker can't run, since another worker may. false: it doesn't.
local function back_ms(item, h, role, lacked)
  if not limits or not item.is_there then return false end
  for _, done in ipairs(redis.call('HMGET', item.task, 'checkpoints', 'batch', 'approvals')) do
    if done then return false end
  end
  local one, all = limiting().of(h.agent), limiting().of(role)
  if not one or not all or not all.members then return false end
  if limiting().able(all) and all.away_ms < one.away_ms then return now_ms end
  for _, member in ipairs(lacked and all.members or {}) do
    if member.away_ms < one.away_ms then return now_ms + LACKED_MS end
  end
  return false
end

-- applied | returned | stopped | repeated | stale
local function end_item(item, h, ended)
  local id, fence = item.id, ended.fence
  local mine = holds(h, inc, fence) and not ended_ids[id]
  local last, is_over      -- the fence of its last transition, and whether that was its end
  local asker = h and h.agent      -- for whom it waits between two attempts: its agent, or its role
  if item.run_id then
    local step = read_step(item.steps, item.name)
    item.step, item.is_there = step, step
    is_over = step and step.finished ~= '0'
    local state = step and step.state
    last = (is_over or state == 'delayed' or state == 'interrupted' or state == 'approval') and step.fence
  else
    local task = redis.call('HMGET', item.task, 'state', 'finished', 'reply', 'deliver', 'agent', 'role')
    item.is_there, is_over, item.reply, item.deliver = task[1], task[2], task[3], task[4]
    if mine and not is_over then asker = name_agent(item, h.agent, task[5], task[6]) end
    item.role = asker ~= (h and h.agent) and asker
    if is_over or not mine then last = redis.call('HGET', item.task, 'fence') end
  end
  if not mine then return last == fence and 'repeated' or 'stale' end
  ended_ids[id] = true
  gone[#gone + 1] = id
  if limits then left[#left + 1] = h end
  local entries = acked[h.class] or {}
  acked[h.class], entries[#entries + 1] = entries, h.entry
  local wish, wish_ttl, why = wish_of(id)
  if wish then granted[#granted + 1] = id end
  if is_over then      -- a stray entry of what has ended
    if h.known ~= '0' then count(h.agent, -1, item.agent_events) end
    return last == fence and 'repeated' or 'stale'
  end
  assigned(item, h, true)
  count(h.agent, -1, item.agent_events)
  local done, goes_back = 'applied', false
  local is_of_agent = ended.outcome == 'exhausted' or ended.outcome == 'put_off'
  if is_of_agent then
    local is_dead = ended.outcome == 'exhausted'
    goes_back = asker ~= h.agent and back_ms(item, h, asker, is_dead)
    ended.outcome, done = is_dead and not goes_back and 'dead' or 'later', goes_back and 'returned' or done
  end
  local attempt = h.attempt      -- the last that counts
  local uncounted = ended.outcome == 'interrupted' or ended.outcome == 'later' or ended.outcome == 'approval'
    or ended.outcome == 'members'
  if uncounted then attempt = int(tonumber(attempt) - 1) end
  -- What ends by itself has ended. What would go on stops, if somebody asked for that.
  if wish and (uncounted or ended.outcome == 'retry') then
    ended.outcome, ended.ttl = wish == 'cancel' and 'cancelled' or 'interrupted', wish_ttl
    done = is_of_agent and 'stopped' or done
  end
  -- What was delegated can't be replayed: who delegated it has gone on.
  if ended.outcome == 'dead' and item.step and runs().is_marked(item.step, DELEGATED) then ended.outcome = 'failed' end
  local outcome = ended.outcome
  if outcome == 'cancelled' then ended.result, ended.message = cancelled_result(item, h, why or '', ended.spent) end
  if not item.is_there then
    if outcome ~= 'dead' then add_letter_of('it has no record', item, h, '', '') end
    if not item.run_id then redis.call('ZADD', IDS, 'XX', now_ms, id) end     -- nothing unfinished is left of it
  end
  if outcome == 'retry' or outcome == 'later' then      -- another attempt follows
    local step = item.step
    if step then
      step.state, step.attempt, step.fence, step.entry, step.spent = 'delayed', attempt, fence, '', ended.spent
      write_step(item.steps, item.name, step)
    elseif item.is_there then
      redis.call('HSET', item.task, 'state', 'delayed', 'fence', fence, 'attempt', attempt, 'spent', ended.spent)
    end
    local next, ttl = int(tonumber(attempt) + 1), tonumber(ended.ttl)
    local due = ttl < 0 and int(-ttl) or now_ms + ttl
    if goes_back then
      due, outcome = goes_back, 'returned'
      redis.call('HDEL', item.task, 'waits')
      item_event(item, 'mission_event', h.agent, 'back to role ' .. role_of(asker) .. ': ' .. ended.message)
    elseif outcome == 'later' then
      asker = h.agent       -- it goes on where it stood
    end
    if asker ~= h.agent then redis.call('HSET', item.task, 'agent', asker) end
    if item.is_there and delay(id, h.class, asker, next, due) then ring() end
    if outcome == 'retry' then
      item_event(item, 'mission_event', h.agent, ended.message)
      if item.is_there then keep_failure(item, h, ended.message) end
    elseif outcome == 'later' and ended.message ~= '' and item.is_there then      -- it may not go on yet, and says why
      local key, field = item.run or item.task, item.run_id and 'waits:' .. item.name or 'waits'
      redis.call('HSET', key, field, int(due) .. FS .. ended.message)
      item_event(item, item.run_id and 'mission_work_blocked' or 'mission_event', h.agent, ended.message)
    end
  elseif outcome == 'members' then
    if item.step then await_members(item, ended, attempt) end
  elseif outcome == 'approval' then
    if item.is_there then approvals().await(item, h, ended, attempt) end
  elseif outcome ~= 'interrupted' then
    if outcome == 'dead' then
      add_letter_of(ended.message, item, h, ended.detail, ended.spent)
      if string.sub(h.agent, 1, 3) == 'to:' then      -- a delivery (RECEIVER in Python): its crew hears of it
        append(crew_feed, 1000, 'mission_event', '{"event_type":"mission_event","timestamp":"' .. stamp()
          .. '","message":' .. quote('delivery ' .. id .. ' is dead: ' .. ended.message) .. '}')
      end
    end
    conclude(item, h, ended)
    if item.approved_events then
      local whose = { fields = ',"parent_agent_id":' .. quote(ended.detail), streams = { item.approved_events } }
      item_event(item, 'reviewer_approval', h.agent, '', whose)
    end
  elseif item.is_there then
    set_aside(item, { agent = h.agent, attempt = attempt, fence = fence, why = why or ended.message,
      spent = ended.spent, due = 0 })
  end
  return done
end

packed = next_holders(ends, 8)
local outcomes = {}
for i = 1, ends do
  local id = ARGV[at]
  local ended = { fence = ARGV[at + 1], outcome = ARGV[at + 2], ttl = ARGV[at + 3], spent = ARGV[at + 4],
    result = ARGV[at + 5], message = ARGV[at + 6], detail = ARGV[at + 7] }
  at = at + 8
  local item = next_item(id, true)
  if ended.outcome == 'completed' and ended.detail ~= '' then
    item.approved_events = KEYS[next_key]
    next_key = next_key + 1
  end
  outcomes[i] = end_item(item, unpack_holder(packed[i]), ended)
end

-- 4. Entries leave the streams. Only now: had anything above failed, all would still be held, and could be sent again
-- one by one.
for class, entries in pairs(acked) do
  redis.call('XACK', STREAM[class], GROUP, unpack(entries))
  redis.call('XDEL', STREAM[class], unpack(entries))
end
if #gone > 0 then redis.call('HDEL', HOLDERS, unpack(gone)) end
local is_vacated = false          -- others may wait for the place of one that an agent's limits count
for _, h in ipairs(left) do
  if limiting().vacate(h) and slots <= 0 then is_vacated = is_vacated or limiting().is_wanted(h.agent) end
end
if #granted > 0 then redis.call('HDEL', WISHES, unpack(granted)) end
local _, enqueued = index_ended()
if slots <= 0 and (is_vacated or enqueued and queued() > redis.call('HLEN', HOLDERS)) then ring() end

-- 5. The next claim.
local claimed = slots >= 0 and claim(inc) or {}

settle()
send_answers()
return { 'ok', outcomes, claimed, runs_made and runs_made.ended or {} }
