#!lua flags=allow-oom
-- uses wake items
-- Delayed work that was postponed is due now: what it waits for may have changed.
-- KEYS fixed, then for each item its own (lib_items.lua)
-- ARGV
--   1 uid
--   2 crew
--   3 ...                 members of `delayed`
-- Answers
--   {'gone'}
--   {'ok', n}             so many were postponed
local uid, crew = ARGV[1], ARGV[2]
if is_gone(uid) then return { 'gone' } end
local n = 0
for i = 3, #ARGV do
  local member = ARGV[i]
  local item, due = next_item(string.match(member, '([^\31]*)$')), redis.call('ZSCORE', DELAYED, member)
  local key, field = item.run or item.task, item.run_id and 'waits:' .. item.name or 'waits'
  local until_ms = string.match(redis.call('HGET', key, field) or '', '^(%d+)\31')
  if due and until_ms and tonumber(until_ms) == tonumber(due) then
    redis.call('ZADD', DELAYED, 'XX', now, member)
    n = n + 1
  end
end
if n > 0 then
  ring()
  wake(crew, true)
end
return { 'ok', n }
