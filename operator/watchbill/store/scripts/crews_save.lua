-- Replaces a crew's whole record with all that points at it, unless something that the caller looked at has changed.
-- What was not there is read as ''.
-- KEYS
--   1 record
--   2 index
--   3 entry               of the id
--   4 previous_entry      of the previous id
--   5 named               record of the crew that the id names
--   6 answer_key
-- ARGV
--   1 name
--   2 new
--   3 record_read         the record as it was read
--   4 entry_read
--   5 named_read
--   6 seconds             for which the answer is kept
-- Answers saved | changed
local record, index, entry, previous_entry, named, answer_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local name, new, record_read, entry_read, named_read, seconds = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local answered = redis.call('GET', answer_key)
if answered then
  return answered -- our first send was applied and its reply was lost
end
if (redis.call('GET', record) or '') ~= record_read
  or (redis.call('GET', entry) or '') ~= entry_read
  or (redis.call('GET', named) or '') ~= named_read then
  return 'changed'
end
local previous = redis.call('GET', previous_entry)
redis.call('SISMEMBER', index, name) -- fails here, before any write, if another program's key is in the way

redis.call('SET', record, new)
redis.call('SADD', index, name)
if previous_entry ~= entry and previous == name then
  redis.call('DEL', previous_entry)
end
redis.call('SET', entry, name)
redis.call('SET', answer_key, 'saved', 'EX', seconds)
return 'saved'
