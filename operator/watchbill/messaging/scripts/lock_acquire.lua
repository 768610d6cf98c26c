-- Takes a lock that nobody holds.
-- KEYS
--   1 lock                hash: token of the holder ('' when nobody), until (us), fence; released (the last token)
-- ARGV
--   1 token               of this acquisition; never used before
--   2 expire_us
--   3 keep_ms             how long the fence is remembered after the lock was last taken
-- Answers
--   the fence             the lock is the caller's
--   0                     somebody holds it
local lock, token, expire_us, keep_ms = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1e6 + tonumber(clock[2])
local holder, ends, last = unpack(redis.call('HMGET', lock, 'token', 'until', 'fence'))
if holder and holder ~= '' and tonumber(ends) > now then
  return holder == token and last or '0' -- the caller's own: its first send was applied and its reply was lost
end
-- The time in microseconds, so that fences grow even if the store has lost its data.
local fence = string.format('%.0f', math.max(now, (tonumber(last) or 0) + 1))
redis.call('HSET', lock, 'token', token, 'until', string.format('%.0f', now + expire_us), 'fence', fence)
redis.call('PEXPIRE', lock, string.format('%.0f', math.max(keep_ms, math.ceil(expire_us / 1000))))
return fence
