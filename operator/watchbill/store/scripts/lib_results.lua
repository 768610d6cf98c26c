-- The stream of results and its time.
-- uses nothing

local AT_ONCE = 1000            -- results that go in one call
local SPARE = 300000            -- ms; much longer than an idle worker's pause between two calls of `trim`, a minute

-- What is older than `ttl` ms goes, as far as it can without taking a node of the stream apart; all of it when no
-- results come any more. Returns how many went. Workers do this from time to time, and so does what writes results
-- where there may be no worker.
local function trim_results(ttl)
  redis.call('PEXPIRE', RESULTS, int(ttl + SPARE))
  return redis.call('XTRIM', RESULTS, 'MINID', '~', int(now_ms - ttl), 'LIMIT', AT_ONCE)
end
