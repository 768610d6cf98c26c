#!lua flags=allow-oom
-- uses events holders streams steps limits releases items
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
--   {'ok', ...}           for each item: applied | returned (to its role) | stopped (whoever takes it next says how it
--                         ended) | repeated | stale
local uid, inc, reason, waits, n = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local bar = barred(uid, inc)
if bar then return { bar } end
know_agents(6 + 3 * n, #KEYS - #ARGV + 6 + 3 * n)

-- The role that this task goes back to, of which this worker can run another agent: that for which its entry was given
-- to its agent; or, where it has waited for a budget of its agent's and nothing of it is done, that of its record (and
-- then true: its entry says nothing of the role). nil: there is none, or the task is that agent's; or this worker
-- doesn't know the agent as one of a role yet, so that its next claim could not say that it lacks it, and would give it
-- the same task.
local function role_for(item, h)
  local entry = limits and limiting().feed_of(h.agent) and redis.call('XRANGE', STREAM[h.class], h.entry, h.entry)[1]
  local fields = entry and entry[2] or {}
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if name == 'agent' and value ~= h.agent then return limiting().can_run_any(value) and value end
  end
  local known = entry and redis.call('HMGET', item.task, 'role', 'waits', 'checkpoints', 'batch', 'approvals') or {}
  local role = known[2] and not (known[3] or known[4] or known[5]) and known[1]
  if not (role and limiting().can_run_any(role)) then return nil end
  local own, of_role = limiting().of(h.agent), limiting().of(role)
  limiting().able(of_role)
  if of_role.away_ms <= (own and own.away_ms or 0) then return role, true end    -- else it would wait longer there
end

local function park(item, h, member)
  if h.known ~= '0' then count(h.agent, -1, item.agent_events) end
  local wish = wish_of(item.id)
  if wish and set_state(item, wish == 'cancel' and 'cancelling' or 'waiting') then
    give_back(item.id, h)
    return 'stopped'
  end
  local role, is_put_anew
  if not wish and not item.run_id then role, is_put_anew = role_for(item, h) end
  if role and set_state(item, 'waiting', nil, is_put_anew and int(tonumber(h.attempt) - 1) or nil) then
    if redis.call('HEXISTS', item.task, 'agent') == 1 then redis.call('HSET', item.task, 'agent', role) end
    redis.call('HDEL', item.task, 'waits')
    item_event(item, 'mission_event', h.agent, 'back to role ' .. role_of(role) .. ': ' .. reason)
    if is_put_anew then
      release(item.id, h)
      local entry = put(h.class, 'id', item.id, 'agent', role, 'attempt', h.attempt)
      redis.call('HSET', item.task, 'entry', entry, 'fence', h.fence)     -- which tells a repeated call that it did so
      ring()
    else
      give_back(item.id, h)
    end
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
    redis.call('HDEL', item.task, 'waits')      -- from now on it waits for a worker, and stays with its agent
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
    local known = item.run_id and {} or redis.call('HMGET', item.task, 'fence', 'role')
    local is_put_anew = known[2] and known[1] == fence
    outcomes[i + 1] = (is_returned or is_parked or is_put_anew) and 'repeated' or 'stale'
  end
end
settle()
return outcomes
