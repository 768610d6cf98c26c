#!lua flags=allow-oom
-- uses nothing
-- A worker is to claim no more, or again. KEYS: fixed. ARGV: uid, worker, 1 | 0, control channel
-- -> {'gone'} | {'ok', did that change anything?}
if is_gone(ARGV[1]) then return { 'gone' } end
local field = 'drain:' .. ARGV[2]
local changed = ARGV[3] == '1' and redis.call('HSET', META, field, now) or redis.call('HDEL', META, field)
redis.call('PUBLISH', ARGV[4], 'look')
return { 'ok', changed }
