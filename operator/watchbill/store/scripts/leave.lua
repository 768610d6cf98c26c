#!lua flags=allow-oom
-- uses events holders streams leases letters claims
-- An incarnation ends in good order. What it still holds (nothing, normally) may be taken at once.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 inc
-- Answers gone | ok
local uid, inc = ARGV[1], ARGV[2]
if is_gone(uid) then return 'gone' end
redis.call('HDEL', WORKERS, inc)
others().fence(inc)
if not others().remove_if_empty(inc) then
  redis.call('ZADD', LEASES, 0, inc)
  ring()
elseif queued() > 0 then
  ring()      -- it may have heard the bell in the place of somebody who is to claim
end
return 'ok'
