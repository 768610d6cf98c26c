#!lua flags=allow-oom
-- uses nothing
-- Incarnations whose processes are known to have ended: their work may be taken at once.
-- KEYS: fixed. ARGV: uid, incarnations...  -> 'gone' | 'ok'
if is_gone(ARGV[1]) then return 'gone' end
for i = 2, #ARGV do redis.call('ZADD', LEASES, 'XX', 0, ARGV[i]) end
ring()
return 'ok'
