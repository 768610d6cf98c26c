#!lua flags=allow-oom
-- uses nothing
-- A worker is to claim no more, or again. KEYS: fixed. ARGV: uid, worker, 1 | 0, control channel
-- -> {'gone'} | {'ok', did that change anything?}
if is_gone(ARGV[1]) then return { 'gone' } end
local field = 'drain:' .. ARGV[2]
if ARGV[3] == '1' then      -- flags of workers that are gone for a day: pods' names don't come again
  local alive, meta = {}, redis.call('HGETALL', META)
  for _, inc in ipairs(redis.call('HKEYS', WORKERS)) do alive[string.match(inc, '^(.*)%.[^.]*$') or inc] = true end
  for i = 1, #meta, 2 do
    local worker = string.match(meta[i], '^drain:(.*)$')
    if worker and not alive[worker] and tonumber(meta[i + 1]) < now_ms - DAY * 1000 then redis.call('HDEL', META, meta[i]) end
  end
end
local changed = ARGV[3] == '1' and redis.call('HSET', META, field, now) or redis.call('HDEL', META, field)
redis.call('PUBLISH', ARGV[4], 'look')
return { 'ok', changed }
