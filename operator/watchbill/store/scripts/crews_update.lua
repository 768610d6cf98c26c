-- Replaces a crew's record, whose name and id stay the same, unless it has changed since it was read.
-- KEYS 1 record, 2 answer
-- ARGV 1 new record, 2 record as read, 3 seconds to keep the answer
-- Answer: saved | changed
local answered = redis.call('GET', KEYS[2])
if answered then
  return answered -- our first send was applied and its reply was lost
end
if redis.call('GET', KEYS[1]) ~= ARGV[2] then
  return 'changed'
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], 'saved', 'EX', ARGV[3])
return 'saved'
