-- Says whether a call is within its limit, and notes it if it is.
-- KEYS
--   1 log                 zset: id of a call that was allowed -> when (us)
-- ARGV
--   1 rate                calls that may be allowed in a window
--   2 period              the length of a window (us)
--   3 id                  of this call, never used before; '': only ask
-- Answers {1 if it is allowed, how many more are allowed now, us until one is}
local log, rate, period, id = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1e6 + tonumber(clock[2])
local function int(n) return string.format('%.0f', n) end

redis.call('ZREMRANGEBYSCORE', log, '-inf', int(now - period))
local newest = redis.call('ZRANGE', log, -1, -1, 'WITHSCORES')
if newest[1] and tonumber(newest[2]) > now then
  -- The clock was set back. Calls of the future count as made just now: the limit holds, and heals in one period.
  for _, call in ipairs(redis.call('ZRANGE', log, '(' .. int(now), '+inf', 'BYSCORE')) do
    redis.call('ZADD', log, int(now), call)
  end
end

local left = rate - redis.call('ZCARD', log)
local is_allowed = left > 0
if id ~= '' and redis.call('ZSCORE', log, id) then
  is_allowed = true -- our first send was applied and its reply was lost
elseif id ~= '' and is_allowed then
  redis.call('ZADD', log, int(now), id)
  redis.call('PEXPIRE', log, int(math.ceil(period / 1000) + 1))
  left = left - 1
end
if left > 0 then
  return { is_allowed and 1 or 0, left, 0 }
end
-- Another is allowed once so few are in the window that it fits. Others may have allowed more than our rate.
local surplus = 0 - left -- not -left, which may be -0, and Redis 7.0 takes that for no integer
local oldest = redis.call('ZRANGE', log, surplus, surplus, 'WITHSCORES')
return { is_allowed and 1 or 0, 0, tonumber(oldest[2]) + period - now }
