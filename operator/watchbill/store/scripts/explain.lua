#!lua flags=allow-oom
-- uses nothing
-- Keeps why the crew has as many workers as it has, for people who ask.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 text
-- Answers gone | ok
local uid, text = ARGV[1], ARGV[2]
if is_gone(uid) then return 'gone' end
redis.call('HSET', META, 'scaling', text)
return 'ok'
