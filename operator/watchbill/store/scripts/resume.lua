#!lua flags=allow-oom
-- uses events streams tasks steps states
-- What was interrupted goes on: back onto its stream, with all that it had. The attempt that was interrupted doesn't count.
-- KEYS: fixed; of a task: task, agent events; of a step: run, steps, agent events, run events. ARGV: uid, crew, id
-- What was due later still is.
-- -> {'gone'} | {'ok', resumed | waiting (it is resumed already, or not interrupted yet) | missing | over:<state>}
if is_gone(ARGV[1]) then return { 'gone' } end
local id, record = ARGV[3], KEYS[FIXED + 1]
local run_id, name = string.match(id, '^([^/]+)/(.*)$')
local step, state, agent, attempt, known, spent
if run_id then
  known = redis.call('HMGET', record, 'class', 'payload', 'inputs', 'def')
  step = read_step(KEYS[FIXED + 2], name)
  if step then state, agent, attempt, spent = step.state, step.agent, step.attempt, step.spent end
else
  known = redis.call('HMGET', record, 'class', 'payload', 'inputs', 'state', 'agent', 'attempt', 'spent')
  state, agent, attempt, spent = known[4], known[5], known[6], known[7] or ''
end
if not state then return { 'ok', 'missing' } end
if ENDED[state] then return { 'ok', 'over:' .. state } end
local due = redis.call('ZSCORE', PARKED_INTERRUPT, id)
if state ~= 'interrupted' or not due then return { 'ok', 'waiting' } end
redis.call('ZREM', PARKED_INTERRUPT, id)
local agent_events, run_events = KEYS[FIXED + 2], nil
if step then agent_events, run_events = KEYS[FIXED + 3], KEYS[FIXED + 4] end
local empty, entry = queued() == 0, nil
attempt = int(tonumber(attempt) + 1)
if tonumber(due) > now_ms then
  set_state(step and 's' or 't', step and KEYS[FIXED + 2] or record, name, 'delayed')
  event('agent_resumed', about(agent, id, run_id, ''), agent_events, run_events)
  if delay(id, known[1], agent, attempt, due) then
    ring()
    wake(ARGV[2], true)
  end
  return { 'ok', 'resumed' }
end
if #known[2] > ALONG or spent ~= '' then      -- `start` tells what was spent
  entry = put(known[1], 'id', id, 'agent', agent, 'attempt', attempt)
elseif step then
  entry = put(known[1], 'id', id, 'agent', agent, 'attempt', attempt, 'payload', known[2], 'inputs', known[3], 'def', known[4])
else
  entry = put(known[1], 'id', id, 'agent', agent, 'attempt', attempt, 'payload', known[2], 'inputs', known[3])
end
set_state(step and 's' or 't', step and KEYS[FIXED + 2] or record, name, 'waiting', entry)
event('agent_resumed', about(agent, id, run_id, ''), agent_events, run_events)
ring()
if empty then wake(ARGV[2]) end
return { 'ok', 'resumed' }
