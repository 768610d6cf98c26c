-- Leases of incarnations.
-- uses nothing

-- Prolongs a lease. Whether less than a third of it was left, or nothing: then its worker was cut off, and others may
-- have been (the store stood still, all were suspended, the server's clock went forward), so those whose leases ran
-- out get another third, to renew first. `is_sure`: none has run out.
local function renew_lease(inc, lease_ms, is_sure)
  local until_ms = not is_sure and redis.call('ZSCORE', LEASES, inc)
  local cut_off = until_ms and tonumber(until_ms) - now_ms < lease_ms / 3
  if cut_off then
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '(0', now_ms, 'LIMIT', 0, 500)) do
      redis.call('ZADD', LEASES, now_ms + math.floor(lease_ms / 3), other)
    end
  end
  redis.call('ZADD', LEASES, now_ms + lease_ms, inc)
  return cut_off
end
