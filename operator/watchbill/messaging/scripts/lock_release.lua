-- Gives a lock back.
-- KEYS
--   1 lock                as in lock_acquire.lua
-- ARGV
--   1 token
-- Answers 1, or 0: the lock was the caller's no more
local lock, token = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1e6 + tonumber(clock[2])
local holder, ends, released = unpack(redis.call('HMGET', lock, 'token', 'until', 'released'))
if released == token then
  return 1 -- our first send was applied and its reply was lost
end
if holder ~= token or tonumber(ends) <= now then
  return 0
end
redis.call('HSET', lock, 'token', '', 'released', token)
return 1
