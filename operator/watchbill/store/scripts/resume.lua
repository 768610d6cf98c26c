#!lua flags=allow-oom
-- uses events answers outbox streams steps runs states wake items resumes approvals
-- What was interrupted goes on: back onto its stream, with all that it had. The attempt that was interrupted doesn't
-- count. What was due later still is, and a step for which its run has no place is parked.
-- KEYS fixed, then those of the item (lib_items.lua)
-- ARGV
--   1 uid
--   2 crew
--   3 id
-- Answers
--   {'gone'}
--   {'ok', ...}           resumed | waiting (it is resumed already, or not interrupted yet) | missing | over:<state>
local uid, crew, id = ARGV[1], ARGV[2], ARGV[3]

-- Whether the run of this step, which is among the active ones, has a place for it; or begins nothing any more.
local function has_place(item)
  local run = redis.call('HMGET', item.run, 'active', 'parallel', 'unplaced', 'state')
  return run[1] - run[3] <= tonumber(run[2]) or run[4] ~= 'running'
end

if is_gone(uid) then return { 'gone' } end
local item = next_item(id)
local found = find_aside(item)
if not found then return { 'ok', 'missing' } end
if ENDED[found.state] then return { 'ok', 'over:' .. found.state } end
local due = redis.call('ZSCORE', PARKED_INTERRUPT, id)
if found.state ~= 'interrupted' or not due then return { 'ok', 'waiting' } end
redis.call('ZREM', PARKED_INTERRUPT, id)
count_placed(item, due)
item_event(item, 'agent_resumed', found.agent, '')
if tonumber(due) > now_ms then
  set_state(item, approvals().is_open(item) and 'approval' or 'delayed')
  if delay(id, found.class, found.agent, int(tonumber(found.attempt) + 1), due) then
    ring()
    wake(crew, true)
  end
elseif due == UNPLACED and not has_place(item) then
  set_state(item, 'parked', '')
  local step = read_step(item.steps, item.name)
  redis.call('ZADD', PARKED, 0, runs().bound_name(item.run_id, item.name, step.index))
  redis.call('HINCRBY', item.run, 'active', -1)
  redis.call('HINCRBY', item.run, 'parked', 1)
else
  put_back(item, found, crew)
end
return { 'ok', 'resumed' }
