-- Lets a holder keep its lock for longer.
-- KEYS
--   1 lock                as in lock_acquire.lua
-- ARGV
--   1 token
--   2 expire_us           from now
--   3 keep_ms
-- Answers 1, or 0: the lock is the caller's no more
local lock, token, expire_us, keep_ms = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1e6 + tonumber(clock[2])
local holder, ends = unpack(redis.call('HMGET', lock, 'token', 'until'))
if holder ~= token or tonumber(ends) <= now then
  return 0
end
redis.call('HSET', lock, 'until', string.format('%.0f', now + expire_us))
redis.call('PEXPIRE', lock, string.format('%.0f', math.max(keep_ms, math.ceil(expire_us / 1000))))
return 1
