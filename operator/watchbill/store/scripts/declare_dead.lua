#!lua flags=allow-oom
-- uses nothing
-- The processes of these incarnations are known to have ended: their work may be taken at once.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 ...                 incarnations
-- Answers gone | ok
local uid = ARGV[1]
if is_gone(uid) then return 'gone' end
for i = 2, #ARGV do
  local inc = ARGV[i]
  redis.call('ZADD', LEASES, 'XX', 0, inc)
end
ring()
return 'ok'
