#!lua flags=allow-oom
-- Begins the time of silence anew for entries that are pending with a consumer.
-- KEYS
--   1 stream
-- ARGV
--   1 group
--   2 consumer
--   3 ...                 ids
-- Answers the ids that still are
local stream = KEYS[1]
local group, consumer = ARGV[1], ARGV[2]
local FIRST = 3
local renewed = {}
for i = FIRST, #ARGV do
  local id = ARGV[i]
  if #redis.call('XPENDING', stream, group, id, id, 1, consumer) > 0 then
    redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
    renewed[#renewed + 1] = id
  end
end
return renewed
