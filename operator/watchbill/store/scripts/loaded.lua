#!lua flags=allow-oom
-- uses streams tasks
-- A worker has loaded all agents of the crew under this definition.
-- KEYS: fixed. ARGV: uid, crew, definition
-- -> 'gone' | 'ok'
if is_gone(ARGV[1]) then return 'gone' end
if redis.call('HGET', META, 'loaded') ~= ARGV[3] then
  redis.call('HSET', META, 'loaded', ARGV[3])
  wake(ARGV[2], true)
end
return 'ok'
