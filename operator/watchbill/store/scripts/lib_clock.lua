-- The server's clock, which may go back, as may that of a server that takes another's place.
-- uses streams

local AGAIN_MOST = 10000        -- delayed tasks that are looked at when it has

-- What was to last for some time would last for as much longer: leases, and pauses between attempts, come forward by
-- what the clock went back since this last looked. (What is due at a time that somebody named is a first attempt, and
-- stays.) Renewals look; before the first of them the last claim counts. Somebody is woken, because BLPOP waits by
-- this clock, too.
local function mind_clock()
  local clock_seen = string.match(LEASES, '}:(.*)leases$') .. 'clock'      -- each queue of the crew looks by itself
  local known = redis.call('HMGET', META, clock_seen, 'fence')
  local back = tonumber(known[1] or (known[2] or 0) / 1000) - now_ms
  redis.call('HSET', META, clock_seen, now)
  if back <= 0 then return end
  local leases = redis.call('ZRANGEBYSCORE', LEASES, '(' .. now, '+inf', 'WITHSCORES')
  for i = 1, #leases, 2 do redis.call('ZADD', LEASES, tonumber(leases[i + 1]) - back, leases[i]) end
  local delayed = redis.call('ZRANGEBYSCORE', DELAYED, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, AGAIN_MOST)
  for i = 1, #delayed, 2 do
    local _, _, attempt = string.match(delayed[i], MEMBER)
    if attempt ~= '1' then redis.call('ZADD', DELAYED, tonumber(delayed[i + 1]) - back, delayed[i]) end
  end
  ring()
end
