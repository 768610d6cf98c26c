#!lua flags=allow-oom
-- uses nothing
-- Stores what has become of a batch.
-- KEYS fixed, then
--   1 lane
--   2 batches
--   3 sender
-- ARGV
--   1 uid
--   2 who                 sends
--   3 hold                for so long it sends, from now on, in ms
--   4 batch
--   5 packed              (store/batches.py); '': it is over
-- Answers gone | lost | ok
local lane, batches, sender = KEYS[FIXED + 1], KEYS[FIXED + 2], KEYS[FIXED + 3]
local uid, who, hold, batch, packed = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
if is_gone(uid) then return 'gone' end
if redis.call('GET', sender) ~= who then return 'lost' end
redis.call('PEXPIRE', sender, hold)
if packed ~= '' then
  redis.call('HSET', batches, 'b:' .. batch, packed)
else
  redis.call('HDEL', batches, 'b:' .. batch)
end
if redis.call('ZCARD', lane) == 0 and packed == '' then
  redis.call('HDEL', META, 'batched')
  redis.call('UNLINK', batches)
end
return 'ok'
