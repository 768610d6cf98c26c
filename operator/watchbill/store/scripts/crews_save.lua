-- Replaces a crew's whole record with all that points at it, unless something that the caller looked at has changed.
-- KEYS 1 record, 2 index, 3 the id's entry, 4 the former id's entry, 5 record of the crew that the id names, 6 answer
-- ARGV 1 name, 2 new record, 3 record as read, 4 the id's entry as read, 5 record under KEYS[5] as read,
--      6 seconds to keep the answer. What was not there is read as ''.
-- Answer: saved | changed
local answered = redis.call('GET', KEYS[6])
if answered then
  return answered -- our first send was applied and its reply was lost
end
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[3]
  or (redis.call('GET', KEYS[3]) or '') ~= ARGV[4]
  or (redis.call('GET', KEYS[5]) or '') ~= ARGV[5] then
  return 'changed'
end
local former = redis.call('GET', KEYS[4])
redis.call('SISMEMBER', KEYS[2], ARGV[1]) -- fails here, before any write, if another program's key is in the way

redis.call('SET', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[2], ARGV[1])
if KEYS[4] ~= KEYS[3] and former == ARGV[1] then
  redis.call('DEL', KEYS[4])
end
redis.call('SET', KEYS[3], ARGV[1])
redis.call('SET', KEYS[6], 'saved', 'EX', ARGV[6])
return 'saved'
