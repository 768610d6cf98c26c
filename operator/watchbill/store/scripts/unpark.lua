#!lua flags=allow-oom
-- uses streams steps items
-- Parked tasks whose agent the caller has return to the stream.
-- KEYS fixed, then for each item its own (lib_items.lua)
-- ARGV
--   1 uid
--   2 ...                 members of `parked:agent`
-- Answers
--   {'gone'}
--   {'ok', n}             so many there were
local uid = ARGV[1]
if is_gone(uid) then return { 'gone' } end
local n = 0
for i = 2, #ARGV do
  local member = ARGV[i]
  local agent, class, attempt, id = string.match(member, MEMBER)
  local item = next_item(id)
  if redis.call('ZREM', PARKED_AGENT, member) == 1 then
    set_state(item, 'waiting', put(class, 'id', id, 'agent', agent, 'attempt', attempt))
    n = n + 1
  end
end
if n > 0 then ring() end
return { 'ok', n }
