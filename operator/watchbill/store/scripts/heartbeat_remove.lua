#!lua flags=allow-oom
-- uses nothing
-- A heartbeat goes. What it fired stays, and so do the guards of its slots.
-- KEYS: fixed; heartbeat
-- ARGV: uid, name
-- -> 'gone' | 'ok'
if is_gone(ARGV[1]) then return 'gone' end
redis.call('DEL', KEYS[FIXED + 1])
redis.call('HDEL', META, 'heartbeat:' .. ARGV[2])
return 'ok'
