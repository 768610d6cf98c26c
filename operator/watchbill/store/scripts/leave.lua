#!lua flags=allow-oom
-- uses events running streams leases claims
-- An incarnation ends in good order. What it still holds (nothing, normally) may be taken at once.
-- KEYS: fixed. ARGV: uid, incarnation  -> 'gone' | 'ok'
if is_gone(ARGV[1]) then return 'gone' end
local inc = ARGV[2]
redis.call('HDEL', WORKERS, inc)
others().fence(inc)
if not others().forget_if_empty(inc) then
  redis.call('ZADD', LEASES, 0, inc)
  ring()
elseif queued() > 0 then
  ring()      -- it may have heard the bell in the place of somebody who is to claim
end
return 'ok'
