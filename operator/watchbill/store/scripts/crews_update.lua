-- Replaces a crew's record, whose name and id stay the same, unless it has changed since it was read.
-- KEYS
--   1 record
--   2 answer_key
-- ARGV
--   1 new
--   2 record_read         the record as it was read
--   3 seconds             for which the answer is kept
-- Answers saved | changed
local record, answer_key, new, record_read, seconds = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local answered = redis.call('GET', answer_key)
if answered then
  return answered -- our first send was applied and its reply was lost
end
if redis.call('GET', record) ~= record_read then
  return 'changed'
end
redis.call('SET', record, new)
redis.call('SET', answer_key, 'saved', 'EX', seconds)
return 'saved'
