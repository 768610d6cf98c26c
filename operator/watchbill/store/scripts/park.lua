#!lua flags=allow-oom
-- uses events holders steps limits releases items
-- Claimed tasks whose agent this worker's image doesn't have leave the stream, until a worker comes that has it. Those
-- that were given to it as an agent of their role go back to that, if this worker can run another one of the role.
-- KEYS fixed, then for each item its own (lib_items.lua); then agent_events of each agent with roles
-- ARGV
--   1 uid
--   2 inc
--   3 reason
--   4 waits               what is said behind that of one that is parked
--   5 n                   items, each with
--     id
--     fence
--     member              of `parked:agent`, which it becomes
--   ...                   agents with roles, as far as the caller knows them (`know_agents` in lib_limits.lua); none:
--                         it can run none of them
-- Answers
--   {'gone'}
--   {'fenced'}
--   {'unknown'}
--   {'ok', ...}           for each item: applied | returned (to its role) | repeated | stale
local uid, inc, reason, waits, n = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local bar = barred(uid, inc)
if bar then return { bar } end
know_agents(6 + 3 * n, #KEYS - #ARGV + 6 + 3 * n)

-- The role that a claim has given this task's entry to its agent for, and of which this worker can run another one.
-- nil: there is none, or the task is that agent's; or this worker doesn't know the agent as one of a role yet, so that
-- its next claim could not say that it lacks it, and would give it the same task.
local function role_for(h)
  local entry = limits and limiting().feed_of(h.agent) and redis.call('XRANGE', STREAM[h.class], h.entry, h.entry)[1]
  local fields = entry and entry[2] or {}
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if name == 'agent' and value ~= h.agent and limiting().can_run_any(value) then return value end
  end
end

local function park(item, h, member)
  if h.known ~= '0' then count(h.agent, -1, item.agent_events) end
  local wish = wish_of(item.id)
  if wish and set_state(item, wish == 'cancel' and 'cancelling' or 'waiting') then
    give_back(item.id, h)       -- whoever takes it next says how it ended
    return 'applied'
  end
  local role = not wish and not item.run_id and role_for(h)
  if role and set_state(item, 'waiting') then
    if redis.call('HEXISTS', item.task, 'agent') == 1 then redis.call('HSET', item.task, 'agent', role) end
    item_event(item, 'mission_event', h.agent, 'back to role ' .. role_of(role) .. ': ' .. reason)
    give_back(item.id, h)
    return 'returned'
  end
  if wish or not set_state(item, 'parked', nil, int(tonumber(h.attempt) - 1)) then
    drop_stray(item.id, h)
    return 'stale'
  end
  release(item.id, h)
  if not item.run_id then
    local known = redis.call('HMGET', item.task, 'agent', 'role')
    name_agent(item, h.agent, known[1], known[2])
  end
  redis.call('ZADD', PARKED_AGENT, now_ms, member)
  item_event(item, 'mission_event', h.agent, reason .. waits)
  if item.run_id then item_event(item, 'mission_work_blocked', h.agent, 'no worker can run its agent') end
  return 'applied'
end

local outcomes = { 'ok' }
for i = 1, n do
  local at = 3 + 3 * i
  local id, fence, member = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local item, h = next_item(id), holder(id)
  if holds(h, inc, fence) then
    outcomes[i + 1] = park(item, h, member)
  else
    local is_returned = h and h.inc == RETURNED and h.fence == fence
    local is_parked = not h and redis.call('ZSCORE', PARKED_AGENT, member)
    outcomes[i + 1] = (is_returned or is_parked) and 'repeated' or 'stale'
  end
end
settle()
return outcomes
