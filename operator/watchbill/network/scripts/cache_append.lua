#!lua
-- Appends a response to its agent's history and to the recent view, once, however often the call is sent. Writes
-- nothing for an agent whose history has expired: what the recent view has of that must be removed first.
-- KEYS
--   1 history             of the agent
--   2 recent
--   3 agents
-- ARGV
--   1 agent
--   2 item                the response, as the history has it
--   3 member              the response, as the recent view has it
--   4 longest             how many responses a history may have; 0: any number
--   5 most                how many the recent view may have; 0: any number
--   6 expire_ms           after which the history goes; 0: as before
-- Answers {1 if it is there now, an agent whose history has expired or nil}
local history, recent, agents = KEYS[1], KEYS[2], KEYS[3]
local agent, item, member = ARGV[1], ARGV[2], ARGV[3]
local longest, most, expire_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1e6 + tonumber(clock[2])
local now_ms = math.floor(now_us / 1000)

redis.call('LLEN', history) -- fails here, before any write, if another program's key is in the way
local expires = redis.call('ZSCORE', agents, agent)
if expires and tonumber(expires) <= now_ms then
  return { 0, agent }
end
if redis.call('ZSCORE', recent, member) then
  return { 1 } -- our first send was applied and its reply was lost
end
-- No two have one time, and none is before another that came earlier, whatever the clock does.
local last = redis.call('ZREVRANGE', recent, 0, 0, 'WITHSCORES')[2]
local us = last and math.max(now_us, math.floor(tonumber(last) * 1e6 + 0.5) + 1) or now_us

redis.call('RPUSH', history, item)
if longest > 0 then redis.call('LTRIM', history, -longest, -1) end
redis.call('ZADD', recent, string.format('%.0f.%06.0f', math.floor(us / 1e6), us % 1e6), member)
if most > 0 then redis.call('ZREMRANGEBYRANK', recent, 0, -most - 1) end
if expire_ms > 0 then
  expires = string.format('%.0f', now_ms + expire_ms)
  redis.call('PEXPIREAT', history, expires)
end
redis.call('ZADD', agents, expires or '+inf', agent)
return { 1, redis.call('ZRANGEBYSCORE', agents, '-inf', now_ms, 'LIMIT', 0, 1)[1] }
