-- rooms(scope ...) -> free promised ..., a pair a scope
-- a:<scope>, p:<scope> hash; meta hash
-- Nothing is free in an account that takes no reservation now.
local rooms, off = {}, killed()
for _, scope in ipairs(ARGV) do
  local a = fields_of(scope)
  local shut = off or not a[1] or a[6] == '1' or a[7] == '1'
  rooms[#rooms + 1] = shut and '0' or int(math.max(a[1] - a[2] - a[3], 0))
  rooms[#rooms + 1] = int(promised(scope, ''))
end
return rooms
