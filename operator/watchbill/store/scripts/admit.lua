#!lua flags=allow-oom
-- uses nothing
-- Somebody closes the crew to new work, or opens it again. What it has goes on.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 closing             what those are told who submit, no number; '': it takes work again
-- Answers
--   {'gone'}
--   {'ok', changed}
local uid, closing = ARGV[1], ARGV[2]
if is_gone(uid) then return { 'gone' } end
local known = redis.call('HMGET', META, 'closing', 'closed')
local before, closed = known[1], known[2]
if closing ~= '' then
  redis.call('HSET', META, 'closing', closing)
  if not closed or closed == before then redis.call('HSET', META, 'closed', closing) end
elseif before then
  redis.call('HDEL', META, 'closing')
  if closed == before then redis.call('HDEL', META, 'closed') end
end
return { 'ok', (before or '') ~= closing and 1 or 0 }
