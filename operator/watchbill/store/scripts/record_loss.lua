#!lua flags=allow-oom
-- uses events
-- Somebody knows the crew from before the store lost all it had. The feed says so once for each loss, whoever finds
-- it out first: what marks it in `meta` is gone with the next.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 born                since when the store knew the crew, as the caller has it; '': unknown
--   3 message
-- Answers gone | ok
local uid, born, message = ARGV[1], ARGV[2], ARGV[3]
if is_gone(uid) then return 'gone' end
local is_other = born ~= '' and born ~= redis.call('HGET', META, 'born')
if is_other and redis.call('HSETNX', META, 'lost', now) == 1 then
  event('mission_event', '"message":' .. quote(message))
end
return 'ok'
