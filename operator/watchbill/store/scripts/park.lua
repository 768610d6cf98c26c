#!lua flags=allow-oom
-- uses events holders steps limits releases items
-- Claimed tasks whose agent this worker's image doesn't have leave the stream, until a worker comes that has it.
-- KEYS fixed, then for each item its own (lib_items.lua)
-- ARGV
--   1 uid
--   2 inc
--   3 reason
--   4 n                   items, each with
--     id
--     fence
--     member              of `parked:agent`, which it becomes
-- Answers
--   {'gone'}
--   {'fenced'}
--   {'unknown'}
--   {'ok', ...}           for each item: applied | repeated | stale
local uid, inc, reason, n = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local bar = barred(uid, inc)
if bar then return { bar } end

local function park(item, h, member)
  if h.known ~= '0' then count(h.agent, -1, item.agent_events) end
  local wish = wish_of(item.id)
  if wish and set_state(item, wish == 'cancel' and 'cancelling' or 'waiting') then
    give_back(item.id, h)       -- whoever takes it next says how it ended
    return 'applied'
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
  item_event(item, 'mission_event', h.agent, reason)
  if item.run_id then item_event(item, 'mission_work_blocked', h.agent, 'no worker can run its agent') end
  return 'applied'
end

local outcomes = { 'ok' }
for i = 1, n do
  local at = 2 + 3 * i
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
