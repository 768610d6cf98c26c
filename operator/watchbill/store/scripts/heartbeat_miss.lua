#!lua flags=allow-oom
-- uses events
-- Tells that slots of a heartbeat went by, and goes on behind them.
-- KEYS: fixed; heartbeat
-- ARGV: uid, generation, first of the slots in ms, the slot to go on with in ms, number of slots, message
-- -> {'gone'} | {'stale'} | {'moved', next slot} (somebody else has dealt with the first: look again) | {'told', next slot}
if is_gone(ARGV[1]) then return { 'gone' } end
local key = KEYS[FIXED + 1]
local known = redis.call('HMGET', key, 'uid', 'generation', 'next')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] or known[3] == '' then return { 'stale' } end
if known[3] ~= ARGV[3] then return { 'moved', known[3] } end
redis.call('HSET', key, 'next', ARGV[4])
redis.call('HINCRBY', key, 'missed', ARGV[5])
event('mission_event', '"message":' .. quote(ARGV[6]))
return { 'told', ARGV[4] }
