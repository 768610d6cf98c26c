#!lua
-- uses nothing
-- A heartbeat comes into being, or changes. One that is as it was keeps its next slot.
-- KEYS: fixed; heartbeat
-- ARGV: uid, name, generation, spec, next slot in ms if this generation is new here ('' = none: suspended)
-- -> {'gone'} | {'ok', next slot or '', last slot fired or '', number of missed slots}
if is_gone(ARGV[1]) then return { 'gone' } end
local key = KEYS[FIXED + 1]
local known = redis.call('HMGET', key, 'uid', 'generation')
if known[1] ~= ARGV[1] then redis.call('DEL', key) end      -- of a former crew of that name
if known[1] ~= ARGV[1] or known[2] ~= ARGV[3] then
  redis.call('HSET', key, 'uid', ARGV[1], 'generation', ARGV[3], 'spec', ARGV[4], 'next', ARGV[5])
end
redis.call('HSET', META, 'heartbeat:' .. ARGV[2], '1')       -- the index of heartbeats
local now = redis.call('HMGET', key, 'next', 'last', 'missed')
return { 'ok', now[1] or '', now[2] or '', now[3] or '0' }
