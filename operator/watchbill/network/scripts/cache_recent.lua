#!lua flags=no-writes
-- Reads the recent view, unless it has responses of an agent whose history has expired: those must be removed first.
-- KEYS
--   1 recent
--   2 agents
-- ARGV
--   1 count
--   2 order               newest | random
-- Answers {members, agents whose history has expired}; no members if there are such agents
local recent, agents = KEYS[1], KEYS[2]
local count, order = tonumber(ARGV[1]), ARGV[2]
local AT_ONCE = 100
local now = redis.call('TIME')
local now_ms = string.format('%.0f', math.floor(tonumber(now[1]) * 1000 + tonumber(now[2]) / 1000))
local expired = redis.call('ZRANGEBYSCORE', agents, '-inf', now_ms, 'LIMIT', 0, AT_ONCE)
if #expired > 0 then
  return { {}, expired }
end
if order == 'random' then
  return { redis.call('ZRANDMEMBER', recent, count), {} }
end
return { redis.call('ZREVRANGE', recent, 0, count - 1), {} }
