#!lua flags=allow-oom
-- uses events
-- Somebody knows the crew from before the store lost all it had. The feed tells of that once for each loss, whoever finds
-- it out first: what marks it in `meta` is gone with the next.
-- KEYS: fixed. ARGV: uid, since when the store knew the crew, as the caller has it (`born`; '' = unknown), message
-- -> 'gone' | 'ok'
if is_gone(ARGV[1]) then return 'gone' end
local is_other = ARGV[2] ~= '' and ARGV[2] ~= redis.call('HGET', META, 'born')
if is_other and redis.call('HSETNX', META, 'lost', now) == 1 then
  event('mission_event', '"message":' .. quote(ARGV[3]))
end
return 'ok'
