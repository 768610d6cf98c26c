#!lua flags=allow-oom
-- uses nothing
-- A crew whose Crew was deleted takes no more work, and no task of it begins. What runs goes on, for as long as its
-- pods have.
-- KEYS fixed
-- ARGV
--   1 uid
-- Answers
--   {'gone'}
--   {'ok', for how long it has been closed, in ms, what becomes of its work: `<policy> <seconds>`, or ''}
local uid = ARGV[1]
if is_gone(uid) then return { 'gone' } end
if not tonumber(redis.call('HGET', META, 'closed') or '') then redis.call('HSET', META, 'closed', now) end
redis.call('HSETNX', META, 'suspended', now)
local known = redis.call('HMGET', META, 'closed', 'deletion')
return { 'ok', math.max(now_ms - tonumber(known[1]), 0), known[2] or '' }
