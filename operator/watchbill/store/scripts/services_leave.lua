-- A consumer leaves its group, unless entries are still given to it: those would be lost with it.
-- KEYS
--   1 stream
-- ARGV
--   1 group
--   2 consumer
-- Answers 1: it has left; 0: it holds entries, or there is no such group
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local pending = redis.pcall('XPENDING', stream, group, '-', '+', 1, consumer)
if pending.err or #pending > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
return 1
