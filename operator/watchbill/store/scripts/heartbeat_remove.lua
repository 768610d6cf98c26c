#!lua flags=allow-oom
-- uses nothing
-- A heartbeat goes. What it fired stays, and so do the guards of its slots.
-- KEYS fixed, then
--   1 heartbeat
--   2 fired
-- ARGV
--   1 uid
--   2 name
-- Answers gone | ok
local uid, name, heartbeat, fired = ARGV[1], ARGV[2], KEYS[FIXED + 1], KEYS[FIXED + 2]
if is_gone(uid) then return 'gone' end
redis.call('DEL', heartbeat, fired)
redis.call('HDEL', META, 'heartbeat:' .. name)
return 'ok'
