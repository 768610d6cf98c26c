#!lua flags=allow-oom
-- Takes a consumer out of its group. The entries that it hands back are given to the next consumer that asks; what else
-- is pending with it, when it has been silent for too long.
-- KEYS
--   1 stream
-- ARGV
--   1 group
--   2 consumer
--   3 returned            consumer that holds what was handed back
--   4 counts              '1': their delivery counts, because somebody began with them
--   5 ...                 ids
-- Answers 1 if others are pending with it: it stays in the group then, since they would be lost with it
local stream = KEYS[1]
local group, consumer, returned, counts = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local FIRST = 5
for i = FIRST, #ARGV do
  local id = ARGV[i]
  local pending = redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
  if pending then
    local given = counts and pending[4] or math.max(pending[4] - 1, 0)
    -- TIME 1: it has been silent about this since 1970
    redis.call('XCLAIM', stream, group, returned, 0, id, 'TIME', 1, 'RETRYCOUNT', given, 'JUSTID')
  end
end
local left = #redis.call('XPENDING', stream, group, '-', '+', 1, consumer)
if left == 0 then
  redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
end
return left
