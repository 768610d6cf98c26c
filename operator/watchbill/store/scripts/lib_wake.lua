-- How whatever scales workers hears of work.
-- uses nothing

-- Says that this crew has work. At most every 200 ms, but where it must look `sooner` than it knows of: it may never
-- hear of the crew again before that is due. `before`: so many entries were there before new ones; then it says so
-- only where these were none, or may all wait for limits and no worker lives.
local function wake(crew, sooner, before)
  if before and before > 0 and not sooner
    and not (limits and redis.call('ZCOUNT', LEASES, '(' .. now, '+inf') == 0) then return end
  local last = tonumber(redis.call('HGET', META, 'woken') or '0')
  if sooner or now_ms - last >= 200 or now_ms < last then
    redis.call('HSET', META, 'woken', now)
    redis.call('PUBLISH', (string.gsub(META, 'meta$', 'wake')), crew)
  end
end
