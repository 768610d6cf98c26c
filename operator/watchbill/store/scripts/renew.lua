#!lua flags=allow-oom
-- uses nothing
-- KEYS: fixed. ARGV: uid, incarnation, lease ms, what `watchbill status` shows of it
-- -> 'gone' | 'fenced' | 'ok'
local bar = barred(ARGV[1], ARGV[2])
if bar then return bar end
if redis.call('HEXISTS', CLAIMS, ARGV[2]) == 0 then return 'fenced' end     -- flushed: it must start anew
redis.call('ZADD', LEASES, now_ms + tonumber(ARGV[3]), ARGV[2])
redis.call('HSET', WORKERS, ARGV[2], ARGV[4])
return 'ok'
