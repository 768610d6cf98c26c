#!lua flags=allow-oom
-- uses events
-- The feed says that slots of a heartbeat went by, and the heartbeat goes on behind them.
-- KEYS fixed, then
--   1 heartbeat
-- ARGV
--   1 uid
--   2 generation
--   3 first               of the slots, in ms
--   4 following           the slot to go on with, in ms
--   5 missed              number of slots
--   6 message
-- Answers
--   {'gone'}
--   {'stale'}
--   {'moved', next slot}  somebody else has dealt with the first: look again
--   {'told', next slot}
local uid, generation, first, following, missed, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local heartbeat = KEYS[FIXED + 1]
if is_gone(uid) then return { 'gone' } end
local known = redis.call('HMGET', heartbeat, 'uid', 'generation', 'next')
if known[1] ~= uid or known[2] ~= generation or known[3] == '' then return { 'stale' } end
if known[3] ~= first then return { 'moved', known[3] } end
redis.call('HSET', heartbeat, 'next', following)
redis.call('HINCRBY', heartbeat, 'missed', missed)
event('mission_event', '"message":' .. quote(message))
return { 'told', following }
