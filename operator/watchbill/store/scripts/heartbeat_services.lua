#!lua flags=allow-oom
-- uses nothing
-- A service says which heartbeats it fires, for a while. Those that are given, and that no service fires, are removed.
-- KEYS fixed, then for each of the given heartbeats
--   heartbeat
--   fired
-- ARGV
--   1 uid
--   2 service
--   3 ms                  how long this holds; 0: it fires none any more
--   4 fires               names of the heartbeats that it fires, a list
--   5 ended               services whose processes have ended, a list
--   6 ...                 names of the given heartbeats
-- Answers
--   {'gone'}
--   {'ok', whether the service was known before, name of each heartbeat that was removed …}
local uid, service, ms, fires, ended = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if is_gone(uid) then return { 'gone' } end
local was_known = redis.call('HEXISTS', META, 'service:' .. service)
if ms == '0' then
  redis.call('HDEL', META, 'service:' .. service)
else
  redis.call('HSET', META, 'service:' .. service, int(now_ms + tonumber(ms)) .. FS .. fires)
end
for _, name in ipairs(split(ended, LS)) do redis.call('HDEL', META, 'service:' .. name) end
local is_fired = {}
local meta = redis.call('HGETALL', META)
for i = 1, #meta, 2 do
  local field, value = meta[i], meta[i + 1]
  if string.sub(field, 1, 8) == 'service:' then
    local holds_until, names = string.match(value, '^(%d+)' .. FS .. '(.*)$')
    if tonumber(holds_until) < now_ms then
      redis.call('HDEL', META, field)
    else
      for _, name in ipairs(split(names, LS)) do is_fired[name] = true end
    end
  end
end
local reply = { 'ok', was_known }
for i = 6, #ARGV do
  local name, heartbeat, fired = ARGV[i], KEYS[FIXED + 2 * i - 11], KEYS[FIXED + 2 * i - 10]
  if not is_fired[name] then
    redis.call('DEL', heartbeat, fired)
    redis.call('HDEL', META, 'heartbeat:' .. name)
    reply[#reply + 1] = name
  end
end
return reply
