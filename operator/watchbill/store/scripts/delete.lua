#!lua flags=allow-oom
-- uses nothing
-- A crew ends, in steps. `begin`: from now on every script answers `gone`; meta has no uid any more, but says who leaves
-- and what of it is still there, and `ids` leads to the records. `records`: so much of that goes. `end`: nothing is left.
-- KEYS: fixed; of `records` what goes. ARGV: uid, begin | records | end; of `records` the ids that go
-- -> 'ok' | 'other' (there is another crew of that name, or a new one by now: nothing is touched)
local known = redis.call('HMGET', META, 'uid', 'leaving')
local uid = known[1] or known[2]
if uid and uid ~= ARGV[1] or known[1] and ARGV[2] ~= 'begin' then return 'other' end
if ARGV[2] == 'begin' then
  if known[1] then
    redis.call('HSET', META, 'leaving', uid)
    redis.call('HDEL', META, 'uid')
    redis.call('PUBLISH', string.sub(META, 1, -5) .. 'control', 'gone' .. FS .. uid)     -- its workers needn't wait for it to come back
  end
  for i = 1, FIXED do
    if KEYS[i] ~= META and KEYS[i] ~= IDS then redis.call('UNLINK', KEYS[i]) end
  end
elseif ARGV[2] == 'records' then
  for i = FIXED + 1, #KEYS do redis.call('UNLINK', KEYS[i]) end
  for i = 3, #ARGV do redis.call('ZREM', IDS, ARGV[i]) end
else
  redis.call('UNLINK', META, IDS)
end
return 'ok'
