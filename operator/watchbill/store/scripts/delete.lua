#!lua flags=allow-oom
-- A crew ends: from now on every script answers `gone`. The records that `ids` leads to are the caller's to remove.
-- KEYS: fixed. ARGV: uid  -> 'ok' | 'other' (another crew of that name: nothing is touched)
local uid = redis.call('HGET', META, 'uid')
if uid and uid ~= ARGV[1] then return 'other' end
for i = 1, FIXED do
  if KEYS[i] ~= IDS then redis.call('DEL', KEYS[i]) end
end
return 'ok'
