-- Crews none of whose tasks is to begin.
-- uses events wake

-- From now on no task is claimed (lib_claims.lua), or tasks are again. Returns whether that changed anything.
local function suspend(crew, is_on)
  local known = redis.call('HGET', META, 'suspended')
  if is_on == (known and true or false) then return false end
  if is_on then
    redis.call('HSET', META, 'suspended', now)
    event('mission_event', '"message":' .. quote('the crew is suspended: no task begins until it is resumed'))
  else
    redis.call('HDEL', META, 'suspended')
    event('mission_event', '"message":' .. quote('the crew is resumed: tasks begin again'))
    ring()
    wake(crew, true)
  end
  return true
end
