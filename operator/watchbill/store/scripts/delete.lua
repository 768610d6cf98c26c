#!lua flags=allow-oom
-- uses nothing
-- A crew ends, in steps. `begin`: from now on every script answers `gone`; meta has no uid any more, but says who
-- leaves and what of it is still there, and `ids` leads to the records. `records`: so much of that goes. `end`:
-- nothing is left.
-- KEYS fixed, then of `records` the keys that go
-- ARGV
--   1 wanted              uid of the crew
--   2 step                begin | records | end
--   3 ...                 of `records` the ids that go
-- Answers
--   ok
--   other                 there is another crew of that name, or a new one by now: nothing is touched
local wanted, step = ARGV[1], ARGV[2]
local known = redis.call('HMGET', META, 'uid', 'leaving')
local alive, uid = known[1], known[1] or known[2]
if uid and uid ~= wanted or alive and step ~= 'begin' then return 'other' end
if step == 'begin' then
  if alive then
    local control = string.sub(META, 1, -5) .. 'control'
    redis.call('HSET', META, 'leaving', uid)
    redis.call('HDEL', META, 'uid')
    redis.call('PUBLISH', control, 'gone' .. FS .. uid)     -- its workers needn't wait for it to come back
  end
  for i = 1, FIXED do
    local key = KEYS[i]
    if key ~= META and key ~= IDS then redis.call('UNLINK', key) end
  end
elseif step == 'records' then
  for i = FIXED + 1, #KEYS do
    local key = KEYS[i]
    redis.call('UNLINK', key)
  end
  for i = 3, #ARGV do
    local id = ARGV[i]
    redis.call('ZREM', IDS, id)
  end
else
  redis.call('UNLINK', META, IDS)
end
return 'ok'
