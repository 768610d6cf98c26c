#!lua flags=allow-oom
-- uses wake
-- A worker has loaded all agents of the crew under this definition.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 crew
--   3 definition
-- Answers gone | ok
local uid, crew, definition = ARGV[1], ARGV[2], ARGV[3]
if is_gone(uid) then return 'gone' end
if redis.call('HGET', META, 'loaded') ~= definition then
  redis.call('HSET', META, 'loaded', definition)
  wake(crew, true)
end
return 'ok'
