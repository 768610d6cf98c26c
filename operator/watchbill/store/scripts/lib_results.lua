-- The stream of results and its time.
-- uses nothing

local AT_ONCE = 1000            -- results that go in one call
local SPARE = 300000            -- ms; much longer than from one `forget` of a worker to its next, which is a minute if it is idle

-- Called from time to time by workers, and by what writes results where there may be none. What is older than `ttl` ms
-- goes, as far as it can without taking a node of the stream apart; all of it when no results come any more. Returns how many went.
local function keep_results(ttl)
  redis.call('PEXPIRE', RESULTS, int(ttl + SPARE))
  return redis.call('XTRIM', RESULTS, 'MINID', '~', int(now_ms - ttl), 'LIMIT', AT_ONCE)
end
