#!lua
-- uses nothing
-- A heartbeat comes into being, or changes. One that is as it was keeps its next slot.
-- KEYS fixed, then
--   1 heartbeat
--   2 fired
-- ARGV
--   1 uid
--   2 name
--   3 generation
--   4 spec
--   5 first               next slot in ms if this generation is new here; '': none, since it is suspended
--   6 known_slot          in ms, a slot that was fired, as somebody else remembers it; '': none
--   7 behind              the slot behind that, in ms
-- Answers
--   {'gone'}
--   {'ok', next slot or '', last slot fired or '', number of missed slots, last work or '',
--    newest slot fired or ''}
local uid, name, generation, spec, first = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local known_slot, behind = ARGV[6], ARGV[7]
local heartbeat, fired = KEYS[FIXED + 1], KEYS[FIXED + 2]
if is_gone(uid) then return { 'gone' } end
local known = redis.call('HMGET', heartbeat, 'uid', 'generation')
if known[1] ~= uid then redis.call('DEL', heartbeat, fired) end      -- of a former crew of that name
if known[1] ~= uid or known[2] ~= generation then
  redis.call('HSET', heartbeat, 'uid', uid, 'generation', generation, 'spec', spec, 'next', first)
end
redis.call('HSET', META, 'heartbeat:' .. name, '1')       -- the index of heartbeats
local slots = redis.call('HMGET', heartbeat, 'next', 'last', 'missed', 'work', 'slot')
if known_slot ~= '' and slots[1] ~= '' and tonumber(slots[1]) <= tonumber(known_slot) then
  slots[1] = behind             -- the store has lost that it was fired
  redis.call('HSET', heartbeat, 'next', behind)
end
return { 'ok', slots[1] or '', slots[2] or '', slots[3] or '0', slots[4] or '', slots[5] or '' }
