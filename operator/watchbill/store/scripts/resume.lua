#!lua flags=allow-oom
-- uses events streams steps states wake items
-- What was interrupted goes on: back onto its stream, with all that it had. The attempt that was interrupted doesn't
-- count. What was due later still is.
-- KEYS fixed, then those of the item (lib_items.lua)
-- ARGV
--   1 uid
--   2 crew
--   3 id
-- Answers
--   {'gone'}
--   {'ok', ...}           resumed | waiting (it is resumed already, or not interrupted yet) | missing | over:<state>
local uid, crew, id = ARGV[1], ARGV[2], ARGV[3]
if is_gone(uid) then return { 'gone' } end
local item, step = next_item(id), nil
local state, agent, attempt, known, spent
if item.run_id then
  known = redis.call('HMGET', item.run, 'class', 'payload', 'inputs', 'def')
  step = read_step(item.steps, item.name)
  if step then state, agent, attempt, spent = step.state, step.agent, step.attempt, step.spent end
else
  known = redis.call('HMGET', item.task, 'class', 'payload', 'inputs', 'state', 'agent', 'attempt', 'spent')
  state, agent, attempt, spent = known[4], known[5], known[6], known[7] or ''
end
local class, payload, inputs, definition = known[1], known[2], known[3], known[4]
if not state then return { 'ok', 'missing' } end
if ENDED[state] then return { 'ok', 'over:' .. state } end
local due = redis.call('ZSCORE', PARKED_INTERRUPT, id)
if state ~= 'interrupted' or not due then return { 'ok', 'waiting' } end
redis.call('ZREM', PARKED_INTERRUPT, id)
local empty, entry = queued() == 0, nil
attempt = int(tonumber(attempt) + 1)
if tonumber(due) > now_ms then
  set_state(item, 'delayed')
  item_event(item, 'agent_resumed', agent, '')
  if delay(id, class, agent, attempt, due) then
    ring()
    wake(crew, true)
  end
  return { 'ok', 'resumed' }
end
if #payload > ALONG or spent ~= '' then      -- `start` gives what was spent
  entry = put(class, 'id', id, 'agent', agent, 'attempt', attempt)
elseif step then
  entry = put(class, 'id', id, 'agent', agent, 'attempt', attempt, 'payload', payload, 'inputs', inputs,
    'def', definition)
else
  entry = put(class, 'id', id, 'agent', agent, 'attempt', attempt, 'payload', payload, 'inputs', inputs)
end
set_state(item, 'waiting', entry)
item_event(item, 'agent_resumed', agent, '')
ring()
if empty then wake(crew) end
return { 'ok', 'resumed' }
