#!lua flags=allow-oom
-- uses events running answers streams tasks steps runs ends states results
-- Tasks and steps are cancelled, or interrupted until somebody resumes them. What a worker holds is asked to stop; what
-- waits is taken from where it waits. At most 500 a call.
-- KEYS: fixed; then per task: task, agent events; per step: run, steps, results, definition, agent events, run events
-- ARGV: uid, crew, cancel | interrupt, why, control channel, n; per item: id, ttl ms
-- -> {'gone'} | {'ok', per item: cancelled | interrupted | asked (its worker) | repeated | missing
--   | over:<state> (it has ended) | busy (it can't be done now: try again) | unready (a step that waits for others)}
if is_gone(ARGV[1]) then return { 'gone' } end
local what, why, asked, outcomes = ARGV[3], ARGV[4], {}, { 'ok' }

-- Takes it off its stream, or from beside them. Whether that was done, whether it counted among its run's active steps, and
-- when it was due.
local function withdraw(k, id, run_id, name, step, h, state, class, agent, attempt, entry)
  local next = int(attempt + 1)
  if h then
    release(id, h)
  elseif state == 'delayed' then
    local member = delayed_name(id, class, agent, next)
    local due = redis.call('ZSCORE', DELAYED, member)
    return redis.call('ZREM', DELAYED, member) == 1, true, due
  elseif state == 'parked' then
    if redis.call('ZREM', PARKED_AGENT, agent .. FS .. class .. FS .. id .. FS .. next) == 1 then return true, true end
    if not step or redis.call('ZREM', PARKED, runs.parked_name(run_id, name, step.index)) == 0 then return false, true end
    redis.call('HINCRBY', k.run, 'parked', -1)
    return true, false
  elseif state == 'interrupted' then
    return redis.call('ZREM', PARKED_INTERRUPT, id) == 1, true
  elseif step and (step.left > 0 or state == 'waiting' and entry == '') then
    return true, false      -- it waits for other steps, or became ready after its run was cancelled
  elseif entry and entry ~= '' then
    local found = redis.call('XRANGE', STREAM[class], entry, entry)
    for i = 1, found[1] and #found[1][2] or 0, 2 do
      if found[1][2][i] == 'id' and found[1][2][i + 1] == id then return redis.call('XDEL', STREAM[class], entry) == 1, true end
    end
    return false, true
  else
    return false, true
  end
  return true, true
end

local at, key = 7, FIXED + 1
for _ = 1, tonumber(ARGV[6]) do
  local id, ttl, k, step, state, agent, class, attempt, entry, reply, run_state = ARGV[at], ARGV[at + 1]
  at = at + 2
  local run_id, name = string.match(id, '^([^/]+)/(.*)$')
  if run_id then
    k = { run = KEYS[key], steps = KEYS[key + 1], results = KEYS[key + 2], def = KEYS[key + 3],
      agent_events = KEYS[key + 4], run_events = KEYS[key + 5] }
    key = key + 6
    local run = redis.call('HMGET', k.run, 'class', 'state')
    step, class, run_state = run[1] and read_step(k.steps, name), run[1], run[2]
    if step then state, agent, attempt, entry = step.state, step.agent, step.attempt, step.entry end
    runs = runs or runs_part()
  else
    k = { task = KEYS[key], agent_events = KEYS[key + 1] }
    key = key + 2
    local task = redis.call('HMGET', k.task, 'state', 'agent', 'class', 'attempt', 'entry', 'reply')
    state, agent, class, attempt, entry, reply = task[1], task[2], task[3], task[4] or '0', task[5], task[6]
  end
  local h, outcome = state and holder(id), nil
  if not state then
    outcome = 'missing'
  elseif ENDED[state] or run_state and run_state ~= 'running' and run_state ~= 'cancelling' then
    outcome = what == 'cancel' and state == 'cancelled' and 'repeated' or 'over:' .. (ENDED[state] and state or run_state)
  elseif what == 'interrupt' and state == 'interrupted' then
    outcome = 'repeated'
  elseif what == 'interrupt' and h and wish_of(id) == 'cancel' then
    outcome = 'over:cancelling'
  elseif h and h.inc ~= RETURNED then
    redis.call('HSET', WISHES, id, what .. ' ' .. ttl .. ' ' .. why)
    if what == 'cancel' then set_state(step and 's' or 't', step and k.steps or k.task, name, 'cancelling') end
    asked[#asked + 1] = id
    outcome = 'asked'
  elseif what == 'interrupt' and step and run_state == 'cancelling' then
    outcome = 'over:cancelling'
  elseif what == 'interrupt' and step and step.left > 0 and state == 'waiting' then
    outcome = 'unready'
  else
    if h then attempt = int(tonumber(h.attempt) - 1) end      -- it was handed back: that attempt didn't count
    local done, active, due = withdraw(k, id, run_id, name, step, h, state, class, agent, tonumber(attempt), entry)
    if h and wish_of(id) then redis.call('HDEL', WISHES, id) end
    if what == 'cancel' then
      -- Where it wasn't found it was due, and is on a stream by now: whoever takes it there is told that it has ended.
      if not active then redis.call('HINCRBY', k.run, 'active', 1) end      -- `conclude` counts it off
      local result, message = cancelled_result(id, agent, attempt, why)
      conclude(k, id, run_id, name, step, true, reply, agent, attempt, int(now_us), '0', 'cancelled', result, ttl, '0', message)
      outcome = 'cancelled'
    elseif done then
      if not active then redis.call('HINCRBY', k.run, 'active', 1) end      -- as if it had been on its stream
      set_aside(k, id, run_id, name, step, agent, attempt, int(now_us), why, due or 0)
      outcome = 'interrupted'
    else
      outcome = 'busy'
    end
  end
  outcomes[#outcomes + 1] = outcome
end
index_ended()
if concluded > 0 then keep_results(tonumber(ARGV[8])) end      -- one crew's, so one time for all
settle()
send_answers()
if #asked > 0 then redis.call('PUBLISH', ARGV[5], what .. FS .. table.concat(asked, FS)) end
if enqueued and queued() > redis.call('HLEN', RUNNING) then
  ring()
  wake(ARGV[2])
end
return outcomes
